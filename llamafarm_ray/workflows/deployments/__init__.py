"""Deploy, watch and change what serves."""
