"""What a run is: its plan and its folder."""
