"""How it is written: tables for people, documents for programs. All text of others is escaped."""
