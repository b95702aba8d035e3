"""What training maximises, one honest number per row."""
