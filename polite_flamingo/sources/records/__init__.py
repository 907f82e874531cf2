"""What every dataset is made with: the `Source` interface, records of any file, fields, images, wordings."""
