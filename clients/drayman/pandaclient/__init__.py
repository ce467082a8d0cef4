"""The PanDA mirror: `drayman.pandaclient.Client` has module-level functions, as `pandaclient.Client` has them."""
