"""What runs on the login node: check, copy the code, submit, stop, resume. Torch-free."""
