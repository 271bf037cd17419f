FROM busybox
ENTRYPONT ["/bin/x"]
