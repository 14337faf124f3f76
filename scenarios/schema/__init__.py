"""What a scenario file may say: strict models, one file a part."""
