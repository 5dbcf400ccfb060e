"""What training changed in feature space: CKA, RSA, agreement with people's label distributions."""
