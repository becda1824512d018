"""What will arrive while a pod that is ordered now gets ready: rates that go on or recur, and bursts that recur.

`rates.py`: how much work a second. `bursts.py`: much work at one moment, such as a batch at each full hour. Both learn
from the past of the service itself and are believed only once they proved right. `forecast.py`: the pods for it.
"""
