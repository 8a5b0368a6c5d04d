"""The base stage under its first name: configs/i2v.py."""

from configs import i2v

get_config = i2v.get_config
