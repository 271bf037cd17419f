version: '3'
services:
  app:
    build: .
