"""Parameters from and to other programs and file formats."""
