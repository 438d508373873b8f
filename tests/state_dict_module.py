#!/usr/bin/env python3
"""Makes tests/fixtures/state_dict_module.pth: the state of a model in torch's wrapper for several GPUs. Needs PyPI's torch."""
import collections
import os

import torch

state = collections.OrderedDict()
state['module.fc.weight'] = torch.arange(6.0).reshape(2, 3)
state['module.fc.bias'] = torch.tensor([0.5, -0.5])
torch.save({'epoch': 3, 'state_dict': state},
           os.path.join(os.path.dirname(os.path.abspath(__file__)), 'fixtures', 'state_dict_module.pth'))
