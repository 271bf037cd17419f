FROM busybox
RUN apt-get update &amp;&amp; apt-get install -y curl
BAD x
