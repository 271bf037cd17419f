FROM busybox
ENV A=1 B=two words C="3" # four
