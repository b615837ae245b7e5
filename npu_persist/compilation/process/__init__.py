"""Work in processes of their own, with limits, progress and a certain end."""
