"""Run a stage: the engine (device, precision, processes) and the callbacks that a stage calls."""
