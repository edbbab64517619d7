"""Backbones of timm and transformers."""
