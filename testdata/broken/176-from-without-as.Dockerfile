FROM busybox one
FROM busybox SA two
FROM busybox: 1.37 AS three
FROM busybox, alpine
