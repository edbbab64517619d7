"""Networks: backbones, their adapted layers, and features from several depths."""
