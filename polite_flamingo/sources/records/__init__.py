"""What every dataset uses: the `Source` interface, records of any file, fields, images, wordings."""
