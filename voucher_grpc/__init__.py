"""voucher-grpc sells battery-charging passes to moving objects over gRPC."""

__version__ = "0.1.0"
