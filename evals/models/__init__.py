"""Any checkpoint or published model as functions of images and texts."""
