"""Networks of people's own, put together from what such networks do."""

from __future__ import annotations

from hypothesis import strategies as st
from tests.robustness.inputs.values import MODEL, MODULE, SMALL, Input

BODIES = r"""
x = self.conv(x).relu()
x = self.conv(x).relu()
x = self.bn(self.conv(x)).relu()
x = torch.relu_(self.conv(x))
x.sub_(0.1).div_(0.9); x = self.conv(x)
x = self.conv(x); x = x - x.mean(0)
x = self.conv(x.clone()).relu()
x = self.conv(x.detach()).relu()
x = self.conv(x.double().float())
x = self.conv(x); x = x + torch.rand_like(x)
x = self.conv(self.conv.bias.new_zeros(x.shape) + x)
x = self.conv(x) if self.training else self.conv(x) * 2
x = F.dropout(self.conv(x), 0.5)
x = self.conv(x[:, [2, 1, 0]])
x = self.conv((x * 255).round() / 255)
x = self.conv(x.half().float())
x = self.conv(x).sigmoid().round()
x = self.again(self.conv(x).relu()[:, :3])
with torch.no_grad(): x = self.conv(x)
x = torch.utils.checkpoint.checkpoint(self.conv, x, use_reentrant=False)
x = self.conv(x.contiguous().view(len(x), 3, 8, 8))
x = self.conv(x.view(-1, 3, 8, 8))
self.seen = self.seen + 1; x = self.conv(x)
x = self.conv(x).to(memory_format=torch.channels_last)
x = self.conv(x) / 0
assert x.shape[0] > 1; x = self.conv(x)
x = self.conv(x).to_sparse().to_dense()
raise ValueError('two\nlines')
raise SystemExit(3)
raise MemoryError
x = self.missing(x)
import sys; sys.exit('bye')
x = self.forward(x)
print('noise'); x = self.conv(x)
import warnings; warnings.warn('careful'); x = self.conv(x)
torch.manual_seed(0); x = self.conv(x)
x = self.conv(x); x.sum().backward() if x.requires_grad else None
self.conv.weight.data.mul_(0.99); x = self.conv(x)
self.train(); x = self.conv(x)
x = self.conv(x.to('meta'))
""".strip("\n").splitlines()

ENDS = r"""
z
z
z
z
z
(z, z)
{'logits': z}
[z]
z.softmax(1)
z.log_softmax(1)
z[0]
z[:, :3]
z[:, :1]
z.argmax(1)
z * float('nan')
z.double()
z.half()
z.bfloat16()
z.detach()
None
z.long()
z.to(torch.complex64)
z.numpy()
z[:, :, None]
z.flatten()
torch.zeros(len(x), 10)
z if len(x) > 1 else z[:, :5]
z * 1e30
z * 0
z.tolist()
self
3
z.T
z.squeeze()
z if self.training else (z, z)
(z, z) if self.training else z
torch.cat([z, z], 1)
-z.abs()
SimpleNamespace(logits=z)
z.expand(2, *z.shape)
z.to_sparse()
iter([z])
""".strip("\n").splitlines()

INITS = r"""
pass
pass
pass
pass
self.again = self.conv
self.conv.weight.requires_grad_(False)
self.requires_grad_(False)
nn.utils.parametrizations.weight_norm(self.conv)
nn.utils.parametrizations.spectral_norm(self.head)
nn.utils.spectral_norm(self.conv)
self.head.weight = nn.Parameter(self.head.weight.double())
self.half()
self.double()
self.to('meta')
del self.bn
self.conv = nn.Identity()
self.extra = nn.Linear(10**9, 10**9)
self.extra = nn.LazyLinear(3)
self.head = nn.Linear(7, 10)
self.head.bias = None
raise RuntimeError('two\nlines')
raise SystemExit(0)
self.register_buffer('x', torch.zeros(0))
self.register_forward_hook(lambda m, i, o: None)
self.conv.register_forward_hook(lambda m, i, o: o * 2)
self.bn.track_running_stats = False; self.bn.running_mean = self.bn.running_var = None
self.bn.momentum = None
nn.init.constant_(self.head.weight, float('nan'))
self.share_memory()
self.conv.weight.register_hook(lambda g: 1 / 0)
self.__class__.__repr__ = lambda s: '[/x]'
nn.utils.prune.l1_unstructured(self.conv, 'weight', 0.5)
self.add_module('a b', nn.Linear(2, 2))
self.add_module('[/x]', nn.Linear(2, 2))
self.conv.weight = self.conv.weight
torch.set_default_dtype(torch.float64)
self.eval()
self.conv.padding_mode = 'wrong'
self.many = nn.ModuleList([self.conv] * 3)
""".strip("\n").splitlines()

FACTORIES = r"""
Net
Net
Net
Net
Net
Net
Net
Net
lambda: Net()
lambda **k: Net()
lambda a: Net()
lambda num_classes: torch.compile(Net())
Net()
3
None
lambda: None
lambda: Net
lambda: torch.jit.script(nn.Linear(3, 3))
lambda: nn.DataParallel(Net())
lambda: nn.Sequential()
lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
lambda: torch.optim.swa_utils.AveragedModel(Net())
lambda: nn.Flatten()
lambda: nn.Sequential(Net(), nn.Softmax(1))
functools.partial(Net, 3)
lambda: 1 / 0
lambda *, num_classes, width: Net()
type('Odd', (), {'__call__': lambda s: Net()})()
print
nn.Linear
""".strip("\n").splitlines()

MODULES = r"""
pass
pass
pass
pass
1 / 0
raise SystemExit(0)
import absent
def broken(:
import sys; sys.exit(3)
""".strip("\n").splitlines()

COMMANDS = (
    ("evaluate", "--protocol", "fgsm", "--eps", "0.1"),
    ("evaluate", "--protocol", "mine.toml", "--eps", "0.1"),
    ("check", "--eps", "0.1"),
    ("train", "train.toml", "--out", "run"),
    ("evaluate", "--protocol", "mine.toml", "--eps", "0.1"),
    ("criticality", "--steps", "1", "--eps", "0.1"),
    ("criticality", "--ranking", "mrc", "--epochs", "1", "--eps", "0.1"),
    ("check", "--eps", "0.1"),
    ("train", "train.toml", "--out", "run"),
    ("harden", "--epochs", "1", "--eps", "0.1", "--plan", "--heldout", "20", "--train-size", "60"),
)

SOURCE = """
import functools
from types import SimpleNamespace

import torch
import torch.nn.functional as F
import torch.nn.utils.prune
import torch.utils.checkpoint
from torch import nn

{module}


class Inner(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.bn, self.seen = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), 0
        self.again = self.missing_ok = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, num_classes)
        self.head.bias.data[0] += 2  # right on some images
        {init}

    def forward(self, x):
        {body}
        z = self.head(x.mean((2, 3)))
        return {end}


class Net(Inner):
    pass


factory = {factory}
"""

RECIPE = b"""
eps = "0.1"
batch_size = 16
model = { name = "hostile_network:factory" }
data = { name = "digits", train_size = 32, heldout = 16, pad = 1 }
monitor = { steps = 1, num_samples = 8 }
evaluation = { protocol = "fgsm", num_samples = 8 }
engine = { device = "cpu", precision = "32" }
stages = [
    { name = "pgd-at", epochs = 1, objective = { name = "pgd-at", steps = 1 } },
    { name = "clat", epochs = 1, objective = { name = "clat", steps = 1 }, selection.k = 1 },
]
"""

PROTOCOL = b"""
name = "mine"
attacks = [
    { attack = "apgd", loss = "ce", steps = 2 }, { attack = "fab", steps = 2, targets = 2 },
    { attack = "square", steps = 4 }, { attack = "stadv", steps = 2, bound = 0.05 }, { attack = "pixle" },
    { attack = "cr", steps = 2 },
]
"""


@st.composite
def networks(draw: st.DrawFn) -> Input:
    """A network with two of these at most, and a command for it."""
    parts = {"module": "pass", "init": "pass", "body": BODIES[0], "end": "z", "factory": "Net"}
    choices = {"module": MODULES, "init": INITS, "body": BODIES, "end": ENDS, "factory": FACTORIES}
    for name in draw(
        st.lists(
            st.sampled_from(["init", "body", "end", "body", "end", "factory", "module"]), min_size=1, max_size=2
        )
    ):
        parts[name] = draw(st.sampled_from(choices[name]))
    words = draw(st.sampled_from(COMMANDS))
    if words[0] != "train":
        words = (*words, "--model", MODEL.replace("Net", "factory"), *SMALL)
    files = {MODULE: SOURCE.format(**parts).encode(), "train.toml": RECIPE, "mine.toml": PROTOCOL}
    return Input(words, files)
