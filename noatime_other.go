//go:build !linux

package main

const noAtime = 0
