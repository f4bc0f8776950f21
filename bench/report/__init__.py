"""Result files as one page for people: tables, pictures, targets, losses."""
