FROM busybox
ENV A=${B:-two words} C=d
