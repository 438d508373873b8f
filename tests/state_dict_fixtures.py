#!/usr/bin/env python3
"""Makes tests/fixtures/state_dict_*.pth: state that torch.save writes in less usual ways. Needs PyPI's torch."""
import collections
import os

import torch

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'fixtures')

# the wrapper for several GPUs
state = collections.OrderedDict()
state['module.fc.weight'] = torch.arange(6.0).reshape(2, 3)
state['module.fc.bias'] = torch.tensor([0.5, -0.5])
torch.save({'epoch': 3, 'state_dict': state}, os.path.join(HERE, 'state_dict_module.pth'))

# tensors without elements, a parameter with an attribute
parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
parameter.no_weight_decay = True
torch.save({'empty': torch.zeros(2, 0, 3), 'none': torch.zeros(0, 3), 'p': parameter},
           os.path.join(HERE, 'state_dict_odd.pth'))

# a tensor that is no array of numbers
torch.save({'w': torch.ones(2), 's': torch.eye(2).to_sparse()}, os.path.join(HERE, 'state_dict_sparse.pth'))

# few numbers repeated often
torch.save({'w': torch.ones(1).expand(1000, 1000)}, os.path.join(HERE, 'state_dict_expanded.pth'))
