"""What a run costs before it is paid: its real step, compiled for devices that may be absent."""
