"""Add-ons: weights that requests may ask for beside the model, how they come here and how they are applied."""
