"""What else moves beside the pools: price, flow, gas, rivals, lenders, and recorded tapes."""
