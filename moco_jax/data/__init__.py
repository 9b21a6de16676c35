"""From a source of images to batches on the device, and their augmentation there."""
