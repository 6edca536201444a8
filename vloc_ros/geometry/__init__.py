"""Rigid transforms, rotations, cameras and geodesy: pure functions on float64 arrays, batched over leading axes.

Modules are imported one by one (``from vloc_ros.geometry import cameras``); only :mod:`~vloc_ros.geometry.torch_ops`
needs torch.
"""
