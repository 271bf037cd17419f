FROM busybox
RUN <<EOT
echo hi
EOT 
