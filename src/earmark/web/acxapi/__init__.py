"""The Upload Media API and its neighbours, as published."""
