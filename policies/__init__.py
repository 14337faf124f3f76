"""What is decided: one folder a family. Imports nothing else of infersim and reads no clock."""
