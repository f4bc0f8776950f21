"""The paper's tables, one CSV file each: first the rows' names, then the cells as printed.

Percentages stand without their sign, and a cell is empty where the paper prints "-". Table 5 prints
its row 0.5-Bottom twice with the same numbers; here it stands once.
"""
