FROM busybox
ENV A='it''s' B=it's
