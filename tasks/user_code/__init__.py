"""User code: what a model class must provide, and how its source is found, digested and imported."""
