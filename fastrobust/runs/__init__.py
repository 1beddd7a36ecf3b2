"""What a run is: its plan, its folder, and where it computes."""
