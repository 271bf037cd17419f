FROM busybox
<<<<<<< HEAD
RUN a
=======
RUN b
>>>>>>> other
