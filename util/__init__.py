"""What the scripts share, besides the models."""
