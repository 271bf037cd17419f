FROM --plataform=linux/arm64 busybox
