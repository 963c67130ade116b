"""Values go in and come back bit for bit."""

from __future__ import annotations

import pytest
import torch

from clat.network.exchange import copied, exchanged, move_towards, put, tensors_of


def test_the_tensors_are_the_networks_own_parameters_and_buffers(net):
    own = tensors_of(net)
    assert own.keys() == net.state_dict().keys()
    assert own["head.bias"].data_ptr() == net.head.bias.data_ptr()
    assert not any(value.requires_grad for value in own.values())
    assert copied(own)["head.bias"].data_ptr() != net.head.bias.data_ptr()


def test_inside_the_named_values_and_afterwards_everything_as_before(net, x, everything, same):
    before = everything(net)
    with exchanged(tensors_of(net), {"head.weight": torch.ones(3, 5)}):
        assert torch.equal(net.head.weight, torch.ones(3, 5))
        net(x)  # in training mode: changes the statistics
        assert not torch.equal(net.bn1.running_mean, before["bn1.running_mean"])
    assert same(everything(net), before)


def test_also_after_a_failure(net, everything, same):
    before = everything(net)
    with (
        pytest.raises(RuntimeError, match="stop"),
        exchanged(tensors_of(net), {"head.weight": torch.zeros(3, 5)}),
    ):
        raise RuntimeError("stop")
    assert same(everything(net), before)


def test_put_writes_in_place(net):
    place = net.head.bias.data_ptr()
    put(tensors_of(net), {"head.bias": torch.ones(3)})
    assert net.head.bias.data_ptr() == place
    assert torch.equal(net.head.bias, torch.ones(3))


def test_an_average_of_equal_infinities_is_infinite() -> None:
    """As those of an attention's mask are, among the tensors that an average follows."""
    average, value = torch.tensor([-torch.inf, torch.inf, 1.0]), torch.tensor([-torch.inf, torch.inf, 3.0])
    move_towards(average, value, 0.25)
    assert average.tolist() == [-torch.inf, torch.inf, 1.5]
