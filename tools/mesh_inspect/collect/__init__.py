"""The facts that `mesh_inspect.doctor` judges: one file for each place that they come from."""
