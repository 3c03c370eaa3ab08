"""What a report computes from run folders."""
