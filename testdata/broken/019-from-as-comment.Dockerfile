FROM busybox AS base # the base
