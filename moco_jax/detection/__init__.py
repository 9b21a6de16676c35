"""Transfer to detection and segmentation; nothing else of the package imports this room."""
