"""Several processes of one run: they find each other, agree, and end together."""
