"""Measurements of the product beside direct connections and beside other programs that stand in the same place."""
