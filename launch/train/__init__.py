"""One rank of a run: recipe -> data, objective, engine, hooks -> fit -> report."""
