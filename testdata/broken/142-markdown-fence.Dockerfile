```dockerfile
FROM busybox
```
