"""The page and the plots of a run: `page.write_report`, `plots.criticality_bars`, `plots.save_figure`."""
