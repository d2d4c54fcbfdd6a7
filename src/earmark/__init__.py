"""Earmark takes recordings and chats, keeps them, processes them and gives them back."""
